"""How programs that rematerialise blocks are compiled."""

# Options of XLA's by platform. By default it computes blocks again long before
# they are needed, which saves no memory: on CPUs to keep cores busy, on several
# GPUs to have work beside the sums of gradients (a joint model of the release's
# size on eight: 47 GiB of temporaries in place of 12 on each; the sums take 1 %
# of the step).
MEMORY_FIRST: dict[str, dict[str, str]] = {
  "cpu": {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"},
  "gpu": {"xla_disable_hlo_passes": "latency-hiding-scheduler"},
}
