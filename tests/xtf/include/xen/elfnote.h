/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XEN_PUBLIC_ELFNOTE_H
#define XEN_PUBLIC_ELFNOTE_H

/* 32-bit physical address of the PVH entry point. */
#define XEN_ELFNOTE_PHYS32_ENTRY 18

#endif /* XEN_PUBLIC_ELFNOTE_H */
