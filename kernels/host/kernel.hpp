// The kernels that were compiled in, by name: each registers itself.
#pragma once
#include "host/wgmma.hpp"
#include <map>
#include <memory>

namespace emulate {
struct Kernel {
  std::function<std::function<void()>(const void* args)> bind;   // to a copy of its arguments
  unsigned threads;
  size_t args_bytes;
  Site at;                         // its KERNEL line
};

inline std::map<std::string, Kernel>& kernels() {
  static std::map<std::string, Kernel> all;
  return all;
}

struct Register {
  template <class Args> Register(const char* name, void (*kernel)(const Args), unsigned threads, Site at = Site::here()) {
    auto bind = [kernel](const void* args) {
      auto copy = std::make_shared<Args>(*static_cast<const Args*>(args));
      return [kernel, copy] { kernel(*copy); };
    };
    kernels()[name] = {bind, threads, sizeof(Args), at};
  }
};
}

#define BARE_KERNEL(name, Args, threads, blocks, ...) \
  static void name(const Args p) { __VA_ARGS__; } \
  static emulate::Register register_##name{#name, name, threads};
#define DYNAMIC_SHARED(name) unsigned char* name = emulate::dynamic_shared()
#define STATIC_SHARED(T, name, n)    \
  static const char name##_key = 0; \
  T* name = static_cast<T*>(emulate::static_shared(&name##_key, sizeof(T) * (n), alignof(T), emulate::Site::here()))
