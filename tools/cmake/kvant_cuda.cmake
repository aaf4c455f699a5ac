# Whether kvant::cuda, the kernels that run on NVIDIA GPUs, is built (KVANT_CUDA), and for which (CMAKE_CUDA_ARCHITECTURES).
# KVANT_WITH_CUDA says how it went. Neither building nor testing needs a GPU, and one binary runs with and without.
set(KVANT_WITH_CUDA OFF)
if(NOT KVANT_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "KVANT_CUDA is ${KVANT_CUDA}; it may be AUTO, ON or OFF")
endif()
# Sanitizers and other machines' compilers are not nvcc's business.
if(KVANT_CUDA STREQUAL "ON" OR (KVANT_CUDA STREQUAL "AUTO" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND NOT CMAKE_CROSSCOMPILING
    AND NOT CMAKE_CXX_FLAGS MATCHES "-fsanitize"))
  # One kind of GPU, and instructions that a driver translates for any other since Ampere: seconds of compiling instead of
  # minutes. Packages are built for all: 80-real;89-real;90-real;100-real;120-real;80-virtual.
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 90-real 80-virtual)
  endif()
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
      # Debian 12's CMake does not know what nvcc 13 can.
      set(CMAKE_CUDA_STANDARD_COMPUTED_DEFAULT 17)
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
      set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
    endif()
    set(CMAKE_CUDA_STANDARD ${CMAKE_CXX_STANDARD})
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.4)
      set(KVANT_WITH_CUDA ON)
    elseif(KVANT_CUDA STREQUAL "ON")
      message(FATAL_ERROR "KVANT_CUDA is ON, but ${CMAKE_CUDA_COMPILER} is ${CMAKE_CUDA_COMPILER_VERSION}; 12.4 is needed")
    endif()
  elseif(KVANT_CUDA STREQUAL "ON")
    message(FATAL_ERROR "KVANT_CUDA is ON, but no nvcc is found")
  endif()
endif()
message(STATUS "GPU kernels: ${KVANT_WITH_CUDA}")
if(KVANT_WITH_CUDA AND KVANT_CCACHE AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${KVANT_CCACHE})
endif()
if(KVANT_WITH_CUDA)
  # Reads machine code (tests/gpu); its absence skips that test.
  get_filename_component(nvcc_folder ${CMAKE_CUDA_COMPILER} DIRECTORY)
  find_program(KVANT_CUOBJDUMP cuobjdump HINTS ${nvcc_folder})
endif()
