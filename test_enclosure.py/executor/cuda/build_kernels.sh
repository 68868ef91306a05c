#!/bin/sh
# build_kernels.sh NVCC INCLUDE-DIRECTORY SOURCE FATBIN PTX ASSEMBLY DEPFILE: compiles the kernels,
# as PTX for the oldest architecture that this nvcc knows of those below, from which drivers make
# code for any newer one, and as machine code for those that people have and this nvcc knows.
set -eu
nvcc=$1 include=$2 source=$3 fatbin=$4 ptx=$5 assembly=$6 depfile=$7
oldest=75
wanted="80 86 89 90 100 120"

codes=" $("$nvcc" --list-gpu-code | tr '\n' ' ') "
version=$("$nvcc" --version | sed -n 's/.*release \([0-9]*\)\.\([0-9]*\).*/\1 \2/p')
major=${version% *} minor=${version#* }

set -- "-gencode=arch=compute_$oldest,code=compute_$oldest"
architectures="compute_$oldest"
for number in $wanted; do
    case $codes in
    *" sm_$number "*)
        set -- "$@" "-gencode=arch=compute_$number,code=sm_$number"
        architectures="$architectures sm_$number"
        ;;
    esac
done
# Not compressed: a loader then needs nothing but the documented formats, and it is small anyway.
"$nvcc" -std=c++17 -O3 -I "$include" -no-compress -fatbin "$@" -o "$fatbin" "$source"
"$nvcc" -std=c++17 -O3 -I "$include" -ptx "-arch=compute_$oldest" -MD -MF "$depfile" -MT "$assembly" \
    -o "$ptx" "$source"

cat >"$assembly" <<END
/* Made by build_kernels.sh. */
        .section .rodata
        .balign 64
        .globl kernels_fatbin
        .hidden kernels_fatbin
kernels_fatbin:
        .incbin "$(realpath "$fatbin")"
        .balign 64
        .globl kernels_ptx
        .hidden kernels_ptx
kernels_ptx:
        .incbin "$(realpath "$ptx")"
        .byte 0
        .balign 4
        .globl kernels_cuda_version
        .hidden kernels_cuda_version
kernels_cuda_version:
        .long $((major * 1000 + minor * 10))
        .globl kernels_architectures
        .hidden kernels_architectures
kernels_architectures:
        .asciz "$architectures"
        .section .note.GNU-stack, "", %progbits
END
