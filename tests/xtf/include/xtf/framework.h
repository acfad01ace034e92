/* SPDX-License-Identifier: GPL-2.0-only */
/* What an architecture and environment has to provide to the common code. */
#ifndef XTF_FRAMEWORK_H
#define XTF_FRAMEWORK_H

#include <xtf/compiler.h>

extern const char environment_description[];

/* Consoles, traps, hypercalls, memory: in this order as far as they depend. */
void arch_setup(void);

/* -1 if the architecture has no way of its own to tell. */
int arch_get_domid(void);

/* The last resort, after a shutdown hypercall came back. */
void __noreturn arch_crash_hard(void);

void __noreturn xtf_main(void);

#endif /* XTF_FRAMEWORK_H */
