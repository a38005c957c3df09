// What a failed launch says: kernel, block, thread and line.
#pragma once
#include "host/device.hpp"
#include "host/schedule.hpp"
#include <dlfcn.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <ucontext.h>

namespace emulate {
struct Failed {};                  // thrown in a scheduler, which has no fiber to abandon

inline std::string file_name(const char* path) {
  const char* slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}

void fail(Site at, const char* format, ...) {
  char text[4096], place[256] = "";
  va_list values;
  va_start(values, format);
  vsnprintf(text, sizeof text, format, values);
  va_end(values);
  if (!worker) {
    fprintf(stderr, "%s:%d: %s\n", at.file, at.line, text);
    abort();
  }
  if (self) {
    const uint3 &b = self->block->idx, &t = self->thread_idx;
    snprintf(place, sizeof place, ": block (%u,%u,%u) thread (%u,%u,%u)", b.x, b.y, b.z, t.x, t.y, t.z);
  }
  Launch& launch = *worker->launch;
  {
    std::lock_guard<std::mutex> hold(launch.lock);
    std::string line = at.line ? " at " + file_name(at.file) + ":" + std::to_string(at.line) : "";
    if (launch.error.empty()) launch.error = launch.kernel + (place + line) + ": " + text;
  }
  launch.failed = true;
  if (!self) throw Failed{};
  Fiber* from = self;
  self = nullptr;
  switch_to(from->context, worker->scheduler);
  abort();
}

// The kernels' line that a plain load or store belongs to, from the line tables, if there is an addr2line to read them.
inline Site find_line(void* pc, char (&file)[256]) {
  Dl_info module;
  if (!dladdr(pc, &module) || !module.dli_fname) return kNowhere;
  char path[512] = "/proc/self/exe", command[800];
  if (strstr(module.dli_fname, ".so")) snprintf(path, sizeof path, "%s", module.dli_fname);
  else if (!realpath("/proc/self/exe", path)) return kNowhere;
  long offset = long(static_cast<char*>(pc) - static_cast<char*>(module.dli_fbase));
  snprintf(command, sizeof command, "addr2line -i -e '%s' 0x%lx 2>/dev/null", path, offset);
  FILE* lines = popen(command, "r");
  if (!lines) return kNowhere;
  Site found = kNowhere;
  char line[512];
  while (fgets(line, sizeof line, lines)) {
    char* colon = strrchr(line, ':');
    if (!colon || !strstr(line, ".cu")) continue;
    *colon = 0;
    snprintf(file, sizeof file, "%s", line);
    found = {file, atoi(colon + 1)};
    break;
  }
  pclose(lines);
  return found;
}

inline Site line_of(void* pc) {
  struct Line {
    char file[256];
    Site site;
  };
  static std::mutex lock;
  static auto* known = new std::map<void*, Line>;
  std::lock_guard<std::mutex> hold(lock);
  auto [at, fresh] = known->try_emplace(pc);
  if (fresh) at->second.site = find_line(pc, at->second.file);
  return at->second.site;
}

inline void on_fault(int number, siginfo_t* info, void* state) {
  if (!worker || !self) {
    signal(number, SIG_DFL);       // not a kernel's: it faults again, and ends the process
    return;
  }
#if defined(__x86_64__)
  Site at = line_of(reinterpret_cast<void*>(static_cast<ucontext_t*>(state)->uc_mcontext.gregs[REG_RIP]));
#else
  Site at = kNowhere;
  (void)state;
#endif
  if (number == SIGILL) fail(at, "an access that is not aligned to its own size");   // the build has the compiler check, and trap
  fail(at, "memory fault at %p, %s", info->si_addr, around(static_cast<uint8_t*>(info->si_addr)).c_str());
}

inline void catch_faults() {
  if (kAddressSanitizer || kThreadSanitizer) return;   // they report with more
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;         // a fiber that faults never returns from here
    sigaction(SIGSEGV, &action, nullptr);
    sigaction(SIGBUS, &action, nullptr);
    sigaction(SIGILL, &action, nullptr);
  });
}

inline std::string waits(const Block& b, const Fiber& f) {
  char text[256];
  switch (f.wait) {
    case Wait::Barrier:
      snprintf(text, sizeof text, "wait at barrier %lu (%u of %u there)", (unsigned long)f.wait_for, b.barriers[f.wait_for].here,
               b.barriers[f.wait_for].expected);
      break;
    case Wait::Mbarrier: {
      uint64_t m;
      memcpy(&m, b.window + f.wait_for, 8);
      snprintf(text, sizeof text, "wait for parity %u of mbarrier 0x%lx (phase %lu, %lu arrivals and %ld bytes to come)", f.wait_parity,
               (unsigned long)f.wait_for, (unsigned long)(m & 1), (unsigned long)(m >> 1 & 0xfffff), long(int64_t(m << 2) >> 43));
      break;
    }
    case Wait::Collective: snprintf(text, sizeof text, "wait in %s for other lanes", reinterpret_cast<const char*>(f.wait_for)); break;
    case Wait::Wgmma: snprintf(text, sizeof text, "wait for a wgmma that not all of the warpgroup issued"); break;
    case Wait::Poll: return "poll for another block's work";
    case Wait::Launches: return "wait for the launches ahead";
    case Wait::None: return "have not run";
  }
  return text;
}

// Names every block's threads by what they wait for, those alike together.
[[noreturn]] inline void report_deadlock(Worker& w) {
  std::string text = "deadlock:";
  Site first = kNowhere;
  auto add = [&](const Block& b, const std::string& what) {
    char block[64];
    snprintf(block, sizeof block, "\n  block (%u,%u,%u)", b.idx.x, b.idx.y, b.idx.z);
    if (text.size() < 2500) text += block + what;
  };
  for (Block* b : w.active) {
    unsigned returned = 0;
    for (unsigned i = 0, j; i < b->threads; i = j) {
      const Fiber& f = b->fibers[i];
      auto alike = [&](const Fiber& g) {
        return g.done == f.done && (g.done || (g.wait == f.wait && g.wait_for == f.wait_for && g.wait_at.line == f.wait_at.line));
      };
      for (j = i + 1; j < b->threads && alike(b->fibers[j]); j++) {}
      if (f.done) {
        returned += j - i;
        continue;
      }
      if (!first.line) first = f.wait_at;
      std::string threads = " threads " + std::to_string(i) + "-" + std::to_string(j - 1) + " ";
      add(*b, threads + waits(*b, f) + " at " + file_name(f.wait_at.file) + ":" + std::to_string(f.wait_at.line));
    }
    if (returned) add(*b, ": " + std::to_string(returned) + " threads have returned");
  }
  fail(first, "%s", text.c_str());
}
}
