// Where a call stands in the kernels' sources, how a launch is to run, and how it fails.
#pragma once
#include <stdint.h>

namespace emulate {
// The defaulted last argument of everything that can wait or fail: messages then name the kernel's line with no debug information.
struct Site {
  const char* file;
  int line;
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};
constexpr Site kNowhere{"", 0};

// Ends the launch: the first message is kept, and every fiber abandoned where it stands.
[[noreturn]] void fail(Site at, const char* format, ...) __attribute__((format(printf, 2, 3)));

struct Settings {
  unsigned os_threads = 0;       // 0: as many as the machine has
  uint64_t seed = 0;             // 0: threads in order; 1: in reverse; else shuffled
  int mode = 0;                  // asynchronous work lands 0: at once; 1: as late as it may; 2: at random
  uint32_t shared_limit = 0;     // bytes of shared memory, static and dynamic, that a block may have
  bool cooperative = false;      // blocks may wait for one another
};
}
