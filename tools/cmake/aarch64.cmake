# Toolchain file of tools/ci/neon.sh: Debian's cross compiler, programs run under qemu. Debian's arm64 libraries lie unpacked in
# KVANT_ARM64_ROOT; the C and C++ libraries are the cross compiler's own, so that is no sysroot of the compiler's.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L /usr/aarch64-linux-gnu)

list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES KVANT_ARM64_ROOT)
set(CMAKE_FIND_ROOT_PATH ${KVANT_ARM64_ROOT} /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
foreach(kind LIBRARY INCLUDE PACKAGE)
  set(CMAKE_FIND_ROOT_PATH_MODE_${kind} ONLY)
endforeach()
set(ENV{PKG_CONFIG_LIBDIR} ${KVANT_ARM64_ROOT}/usr/lib/aarch64-linux-gnu/pkgconfig:${KVANT_ARM64_ROOT}/usr/share/pkgconfig)
set(ENV{PKG_CONFIG_SYSROOT_DIR} ${KVANT_ARM64_ROOT})
