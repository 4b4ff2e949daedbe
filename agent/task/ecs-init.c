/*
 * The program that is process 1 of a container with initProcessEnabled: it passes signals on to the
 * container's program, collects orphans, and ends with the program's exit code. How it is run, and
 * what it is for besides, is in init_program.h.
 *
 * It is linked with nothing, not even libc: it runs behind the container's seccomp filter, which
 * may refuse what libc does before main(), and one of these stays in memory for each container. All
 * signals are blocked when it starts, and stay so.
 */
#include <asm/unistd.h>
#include <linux/prctl.h>
#include <linux/signal.h>
#include <linux/wait.h>

/* The registers of a system call; _start gives init_start() the stack as the kernel made it. */
#if defined(__x86_64__)
__asm__(".text\n"
        ".globl _start\n"
        "_start:\n"
        "	xor %ebp, %ebp\n"
        "	mov %rsp, %rdi\n"
        "	and $-16, %rsp\n"
        "	call init_start\n");

static long system_call(long number, long a, long b, long c, long d)
{
	register long r10 __asm__("r10") = d;
	long r;

	__asm__ volatile("syscall"
	                 : "=a"(r)
	                 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
	                 : "rcx", "r11", "memory");
	return r;
}
#elif defined(__aarch64__)
__asm__(".text\n"
        ".globl _start\n"
        "_start:\n"
        "	mov x29, #0\n"
        "	mov x30, #0\n"
        "	mov x0, sp\n"
        "	bl init_start\n");

static long system_call(long number, long a, long b, long c, long d)
{
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;

	__asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
	return x0;
}
#else
#	error "ecs-init.c has no system calls of this architecture; ECS has x86_64 and arm64"
#endif

/* Wiped, so that the command line shown is the container's alone. */
static long take_number(volatile char *text)
{
	long n = 0;

	for (; *text; text++) {
		n = n * 10 + (*text - '0');
		*text = '\0';
	}
	return n;
}

static _Noreturn void end(int status)
{
	int signal = status & 0x7f;

	for (;;)
		(void)system_call(__NR_exit_group, signal ? 128 + signal : status >> 8 & 0xff, 0, 0,
		                  0);
}

/* main_pid 0: there is no program, and no end. */
static _Noreturn void loop(long main_pid)
{
	const unsigned long all = ~0UL;

	for (;;) {
		int status = 0;
		long pid, signal;

		while ((pid = system_call(__NR_wait4, -1, (long)&status, WNOHANG, 0)) > 0)
			if (pid == main_pid)
				end(status);
		signal = system_call(__NR_rt_sigtimedwait, (long)&all, 0, 0, sizeof(all));
		if (signal > 0 && signal != SIGCHLD && main_pid > 0)
			(void)system_call(__NR_kill, main_pid, signal, 0, 0); /* may have ended */
	}
}

_Noreturn void init_start(const long *stack);
_Noreturn void init_start(const long *stack)
{
	long argc = stack[0];
	char *const *argv = (char *const *)(stack + 1);

	if (argc > 1) {
		(void)system_call(__NR_prctl, PR_SET_NAME, (long)"init", 0, 0);
		loop(take_number(argv[argc - 1]));
	}
	(void)system_call(__NR_prctl, PR_SET_NAME, (long)"pause", 0, 0);
	(void)system_call(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0);
	loop(0);
}
