# Compile settings and small functions shared by all folders.

if(PROJECT_IS_TOP_LEVEL)
  if(NOT CMAKE_BUILD_TYPE)
    set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
  endif()
  # A parent project chooses its own launcher and linker.
  find_program(KVANT_CCACHE ccache)
  mark_as_advanced(KVANT_CCACHE)
  foreach(language C CXX)
    if(KVANT_CCACHE AND NOT CMAKE_${language}_COMPILER_LAUNCHER)
      set(CMAKE_${language}_COMPILER_LAUNCHER ${KVANT_CCACHE})
    endif()
  endforeach()
  # Programs are found in one place: build/<preset>/bin.
  set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
endif()

add_library(kvant_build_flags INTERFACE)
target_compile_options(kvant_build_flags INTERFACE
  # The same rounding on every target: codes must not depend on whether the compiler fuses a multiply and an add.
  -ffp-contract=off
  # ADR 0001: without this baseline Highway 1.0.3 under g++ 12 falls back to HWY_SCALAR, where table look-ups are wrong.
  $<$<STREQUAL:${CMAKE_SYSTEM_PROCESSOR},x86_64>:-march=x86-64-v2>
  # kernels/README.md: Highway's NEON target includes AES, and scores are dot products of bytes.
  $<$<STREQUAL:${CMAKE_SYSTEM_PROCESSOR},aarch64>:-march=armv8.2-a+crypto+dotprod>)
if(KVANT_DEVELOPER_MODE)
  target_compile_options(kvant_build_flags INTERFACE -Wall -Wextra -Wshadow -Wconversion -Wnon-virtual-dtor
    # g++ 12 sees overlapping copies in `"text" + std::to_string(n)` (GCC bug 105651).
    $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>
    # clang counts these under -Wconversion, g++ does not.
    $<$<CXX_COMPILER_ID:Clang>:-Wno-sign-conversion -Wno-implicit-int-float-conversion>)
endif()

# kvant_library(<name> sources...): a static library kvant_<name> with alias kvant::<name> and root-relative private includes.
function(kvant_library name)
  add_library(kvant_${name} STATIC ${ARGN})
  add_library(kvant::${name} ALIAS kvant_${name})
  target_include_directories(kvant_${name} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>)
  target_link_libraries(kvant_${name} PRIVATE $<BUILD_INTERFACE:kvant_build_flags>)
endfunction()

# kvant_program(<target> <name> sources...): an installed program that finds libkvant_client beside itself wherever the prefix is.
function(kvant_program target name)
  add_executable(${target} ${ARGN})
  set_target_properties(${target} PROPERTIES OUTPUT_NAME ${name})
  file(RELATIVE_PATH lib_from_bin ${CMAKE_INSTALL_FULL_BINDIR} ${CMAKE_INSTALL_FULL_LIBDIR})
  set_target_properties(${target} PROPERTIES INSTALL_RPATH "$ORIGIN/${lib_from_bin}")
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${target} PRIVATE kvant_build_flags)
  install(TARGETS ${target} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endfunction()
