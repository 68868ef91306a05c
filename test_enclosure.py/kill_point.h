/*
 * Places where the daemon can be made to die, for the campaign that checks that
 * nothing is lost whatever it was about (tests/campaign). Only in a build with
 * -Dkill_points=true; in all others they are nothing.
 */
#ifndef VGPUFS_KILL_POINT_H
#define VGPUFS_KILL_POINT_H

#ifdef VGPUFS_KILL_POINTS
/* kill_point ends the process by SIGKILL where VGPUFS_KILL_POINT=NAME:COUNT says: the COUNTth time
 * that it comes to the point of that name. Thread-safe. */
void kill_point(const char *name);
#define KILL_POINT(name) kill_point(name)
#else
#define KILL_POINT(name) ((void)0)
#endif

#endif
