/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XTF_X86_XTF_H
#define XTF_X86_XTF_H

#include <arch/barrier.h>
#include <arch/lib.h>
#include <arch/mm.h>
#include <arch/page.h>
#include <arch/traps.h>

/* The image in memory, all of its sections. */
extern char _start[], _end[];

#endif /* XTF_X86_XTF_H */
