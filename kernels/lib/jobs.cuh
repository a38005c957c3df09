// Launches of several jobs, each of which is cut into units; `first_unit` tells how many units the jobs before it have.
#pragma once
#include "lib/ptx.cuh"

// The job that a unit is of.
template <class Jobs> PTX int job_of(const Jobs& p, int unit) {
  int job = 0;
  while (job + 1 < p.job_count && p.jobs[job + 1].first_unit <= unit) job++;
  return job;
}
