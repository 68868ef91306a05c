/* Apart from all that includes <fcntl.h>, whose O_LARGEFILE is 0 on 64-bit machines. */
#include "caller.h"

#include <asm/fcntl.h>

bool caller_looks_for_a_name(int flags)
{
    return (flags & O_LARGEFILE) == 0;
}
