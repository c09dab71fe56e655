# The CUDA flavour: kernels compiled by nvcc, libtorch_cuda and c10_cuda linked. CUDA's run-time library is the one that
# libtorch brings; as with libgomp, the addon is not linked against it but finds it through libtorch, because a second
# copy would have device contexts of its own.

if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real 100)
endif()
set(CMAKE_CUDA_RUNTIME_LIBRARY None)
enable_language(CUDA)
# CMake before 3.26 does not know nvcc as a C++20 compiler; kernels need no more than C++17.
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)

foreach(library torch_cuda c10_cuda)
  if(NOT EXISTS "${CFT_TORCH_LIB_DIR}/lib${library}.so")
    message(FATAL_ERROR "${CFT_TORCH_ROOT} has no CUDA: lib${library}.so is missing")
  endif()
  # libtorch_cuda registers its operations when it is loaded; nothing of ours need refer to it.
  target_link_libraries(cft_libtorch INTERFACE -Wl,--no-as-needed "${CFT_TORCH_LIB_DIR}/lib${library}.so")
endforeach()

file(GLOB_RECURSE kernel_sources CONFIGURE_DEPENDS native/kernels/*.cu)
add_library(cft_kernels OBJECT ${kernel_sources})
target_include_directories(cft_kernels PRIVATE native)
target_compile_options(cft_kernels PRIVATE -Xcompiler=-Wall,-Wextra)
if(CFT_WERROR)
  target_compile_options(cft_kernels PRIVATE -Werror all-warnings -Xcompiler=-Werror)
endif()

target_compile_definitions(cft_options INTERFACE CFT_CUDA)
target_include_directories(cft_options SYSTEM INTERFACE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
set(CFT_KERNELS cft_kernels)
find_library(CFT_CUDART cudart HINTS ${CMAKE_CUDA_IMPLICIT_LINK_DIRECTORIES} REQUIRED)
list(APPEND CFT_RUNTIME_LIBRARIES ${CFT_CUDART})
