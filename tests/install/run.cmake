# Installs the build into an empty prefix, moves that elsewhere, and uses it from a project outside the tree: once through
# find_package, once through pkg-config. Runs as `cmake -D BUILD=... -D SOURCE=... -D EXAMPLES=... -D WORK=... -D LIBDIR=... -D C=... -D CXX=... -P run.cmake`.
function(must)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  string(JOIN " " command ${ARGN})
  if(NOT result STREQUAL 0)
    message(FATAL_ERROR "${command}\nended with ${result}:\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

file(REMOVE_RECURSE ${WORK})
file(MAKE_DIRECTORY ${WORK})
must(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/first)
file(RENAME ${WORK}/first ${WORK}/prefix)  # an installed tree may be moved
file(COPY ${SOURCE}/consumer DESTINATION ${WORK})

must(${CMAKE_COMMAND} -S ${WORK}/consumer -B ${WORK}/by_cmake -G Ninja -DCMAKE_BUILD_TYPE=Release
  -DCMAKE_CXX_COMPILER=${CXX} -DCMAKE_CXX_STANDARD=20 -DCMAKE_PREFIX_PATH=${WORK}/prefix)
must(${CMAKE_COMMAND} --build ${WORK}/by_cmake)
must(${WORK}/by_cmake/consumer)
message(STATUS "find_package: ${output}")

set(ENV{PKG_CONFIG_PATH} ${WORK}/prefix/${LIBDIR}/pkgconfig)
must(pkg-config --cflags --libs kvant)
separate_arguments(flags UNIX_COMMAND "${output}")
must(${CXX} -std=c++20 -O1 ${WORK}/consumer/main.cc -o ${WORK}/by_pkg_config ${flags})
set(ENV{LD_LIBRARY_PATH} ${WORK}/prefix/${LIBDIR})
must(${WORK}/by_pkg_config)
message(STATUS "pkg-config: ${output}")
must(${C} -std=c11 -Wall -Wextra -Werror -O1 ${EXAMPLES}/append_and_attend.c -o ${WORK}/in_c ${flags} -lm)
must(${WORK}/in_c)
message(STATUS "C: ${output}")
must(nm -D --defined-only ${WORK}/prefix/${LIBDIR}/libkvant_client.so)
if(NOT output MATCHES " kvant_client_connect@@KVANT_C_1")
  message(FATAL_ERROR "kvant_client_connect has no version in libkvant_client.so")
endif()
set(ENV{LD_LIBRARY_PATH})

foreach(program kvantd kvantctl kvant-generate)
  must(${WORK}/prefix/bin/${program} --help)
endforeach()
must(${WORK}/prefix/bin/kvantctl codecs)

# Only the library's own interface may be visible: a host with another Cap'n Proto or Highway must not meet ours.
must(nm -DC --defined-only ${WORK}/prefix/${LIBDIR}/libkvant_client.so)
string(REGEX MATCHALL "[^\n]* [TWVBDR] (vtable for |typeinfo for |typeinfo name for )?(kj|capnp|spdlog|hwy|fmt)::[^\n]*" leaked "${output}")
if(leaked)
  list(LENGTH leaked count)
  list(GET leaked 0 first)
  message(FATAL_ERROR "libkvant_client.so exports ${count} symbols of others, for example ${first}")
endif()
