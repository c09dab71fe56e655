# Finds libtorch under CFT_TORCH_ROOT (an unpacked libtorch or Python's torch folder), checks its version, and defines
# the imported target cft::libtorch. No download here and no Torch CMake package: that one wants CUDA's toolkit, MKL
# and protobuf of the machine that built the wheel. For the CPU flavour only libtorch_cpu and c10 are linked, so a CUDA
# wheel serves too.
#
# Sets CFT_TORCH_VERSION, CFT_TORCH_LIB_DIR and CFT_RUNTIME_LIBRARIES (for executables).

if(NOT CFT_TORCH_ROOT)
  message(FATAL_ERROR "CFT_TORCH_ROOT is not set; build with `npm run build:native`, which finds libtorch")
endif()

set(CFT_TORCH_INCLUDE "${CFT_TORCH_ROOT}/include")
set(CFT_TORCH_LIB_DIR "${CFT_TORCH_ROOT}/lib")
set(version_header "${CFT_TORCH_INCLUDE}/torch/headeronly/version.h")
if(NOT EXISTS "${version_header}")
  message(FATAL_ERROR "${CFT_TORCH_ROOT} holds no supported libtorch: ${version_header} is missing")
endif()
file(STRINGS "${version_header}" version_lines REGEX "#define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
string(REGEX REPLACE ".*MAJOR ([0-9]+).*MINOR ([0-9]+).*PATCH ([0-9]+).*" "\\1.\\2.\\3" CFT_TORCH_VERSION
                     "${version_lines}")
if(NOT CFT_TORCH_VERSION MATCHES "^2\\.(11\\.[0-9]+|13\\.0|14\\.[0-9]+)$")
  message(FATAL_ERROR "libtorch ${CFT_TORCH_VERSION} is not supported; use 2.11.x, 2.13.0 or 2.14.x")
endif()

add_library(cft_libtorch INTERFACE)
add_library(cft::libtorch ALIAS cft_libtorch)
target_include_directories(cft_libtorch SYSTEM INTERFACE "${CFT_TORCH_INCLUDE}"
                                                         "${CFT_TORCH_INCLUDE}/torch/csrc/api/include")
target_link_libraries(cft_libtorch INTERFACE "${CFT_TORCH_LIB_DIR}/libtorch_cpu.so" "${CFT_TORCH_LIB_DIR}/libc10.so")

# libgomp comes with the wheel (in lib, or beside the package under a hashed name) and must be the only one in the
# process: a second one would mean a second thread pool. So -fopenmp is given to the compiler alone; the addon finds
# GOMP_* through libtorch_cpu, an executable is linked against the very file that libtorch_cpu loads (in
# CFT_RUNTIME_LIBRARIES).
file(GLOB gomp "${CFT_TORCH_LIB_DIR}/libgomp*.so*" "${CFT_TORCH_ROOT}/../torch.libs/libgomp*.so*")
if(gomp)
  list(GET gomp 0 CFT_RUNTIME_LIBRARIES)
else()
  set(CFT_RUNTIME_LIBRARIES gomp)
endif()
