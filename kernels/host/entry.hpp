// Emits the C interface of the emulation once.
#pragma once
#include "emulate_tensor.hpp"

extern "C" {
// What a kernel was registered with, so that a test can compare it with Rust's table; 0 past the last.
int emulate_kernel(int number, const char** name, unsigned* threads, size_t* args_bytes) {
  auto& all = emulate::kernels();
  if (number < 0 || size_t(number) >= all.size()) return 0;
  auto at = std::next(all.begin(), number);
  *name = at->first.c_str(); *threads = at->second.threads; *args_bytes = at->second.args_bytes;
  return 1;
}
__attribute__((used)) static void* const kept[] = {
    (void*)emulate_launch, (void*)emulate_error, (void*)emulate_configure, (void*)emulate_malloc, (void*)emulate_free, (void*)emulate_tensor_map,
};
}
