/*
 * Programs as files in memory that nothing can change any more. Run from such a file, a program
 * cannot be overwritten through /proc/<pid>/exe by those that can look at the process
 * (CVE-2019-5736). Source: memfd_create(2).
 */
#pragma once

/* A new file that can be executed, to be filled by the caller. -EACCES: the sysctl vm.memfd_noexec
 * is 2, which forbids it. */
int memfd_program_new(const char *name);

/* Mode 0555, and no more writing. */
int memfd_program_seal(int fd);
