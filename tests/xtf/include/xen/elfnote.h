/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XEN_PUBLIC_ELFNOTE_H
#define XEN_PUBLIC_ELFNOTE_H

#define XEN_ELFNOTE_ENTRY           1
#define XEN_ELFNOTE_HYPERCALL_PAGE  2
#define XEN_ELFNOTE_VIRT_BASE       3
#define XEN_ELFNOTE_XEN_VERSION     5
#define XEN_ELFNOTE_GUEST_OS        6
#define XEN_ELFNOTE_LOADER          8
#define XEN_ELFNOTE_PAE_MODE        9

/* 32-bit physical address of the PVH entry point. */
#define XEN_ELFNOTE_PHYS32_ENTRY 18

#endif /* XEN_PUBLIC_ELFNOTE_H */
