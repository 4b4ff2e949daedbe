/*
 * Linux security modules: which of those that confine programs by a policy are at work on this
 * host. Sources: Linux Documentation/admin-guide/LSM/apparmor.rst, SELinux.rst.
 */
#pragma once

#include <stdbool.h>

#define LSM_SELINUX_DIR "/sys/fs/selinux"

bool lsm_has_apparmor(void);
bool lsm_has_selinux(void);
