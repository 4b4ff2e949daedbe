/*
 * What of /proc and /sys no container sees or writes, unless it is privileged: ecs-agent asks for
 * it, and ecs-task insists on it where ECS_DISABLE_PRIVILEGED is set (unprivileged.h).
 *
 * Source: moby oci/defaults.go, masked and read-only paths of Linux containers.
 */
#pragma once

#define DEFAULT_MASKED_PATHS                                                                       \
	{                                                                                          \
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys",     \
			"/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",            \
			"/proc/sched_debug", "/proc/scsi", "/sys/firmware",                        \
			"/sys/devices/virtual/powercap",                                           \
	}

#define DEFAULT_READONLY_PATHS                                                                     \
	{                                                                                          \
		"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",          \
	}
