# Compile settings and small functions shared by all folders.

if(PROJECT_IS_TOP_LEVEL AND NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

add_library(kvant_build_flags INTERFACE)
target_compile_options(kvant_build_flags INTERFACE
  # The same rounding on every target: codes must not depend on whether the compiler fuses a multiply and an add.
  -ffp-contract=off
  # ADR 0001: without this baseline Highway 1.0.3 under g++ 12 falls back to HWY_SCALAR, where table look-ups are wrong.
  $<$<STREQUAL:${CMAKE_SYSTEM_PROCESSOR},x86_64>:-march=x86-64-v2>)
if(KVANT_DEVELOPER_MODE)
  target_compile_options(kvant_build_flags INTERFACE -Wall -Wextra -Wshadow -Wconversion -Wnon-virtual-dtor)
endif()

# kvant_library(<name> sources...): a static library kvant_<name> with alias kvant::<name> and root-relative private includes.
function(kvant_library name)
  add_library(kvant_${name} STATIC ${ARGN})
  add_library(kvant::${name} ALIAS kvant_${name})
  target_include_directories(kvant_${name} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>)
  target_link_libraries(kvant_${name} PRIVATE $<BUILD_INTERFACE:kvant_build_flags>)
endfunction()
