/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Environments.  The build defines CONFIG_ENV_<name>; the rest of the code asks
 * for properties only, so that another environment (pv64, hvm32pae …) is a new
 * block here, its entry code, and a line in build/common.mk.
 */
#ifndef XTF_X86_CONFIG_H
#define XTF_X86_CONFIG_H

#define XTF_LOAD_ADDR 0x100000

#if defined(CONFIG_ENV_hvm64)
# define CONFIG_HVM 1
# define CONFIG_64BIT 1
# define CONFIG_PAGING_LEVELS 4
# define ENVIRONMENT_DESCRIPTION "HVM 64bit (Long mode 4 levels)"
#elif defined(CONFIG_ENV_pv64)
# define CONFIG_PV 1
# define CONFIG_64BIT 1
# define CONFIG_PAGING_LEVELS 4
# define ENVIRONMENT_DESCRIPTION "PV 64bit (Long mode 4 levels)"
#else
# error Unknown environment
#endif

#endif /* XTF_X86_CONFIG_H */
