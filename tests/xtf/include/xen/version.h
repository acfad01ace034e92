/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XEN_PUBLIC_VERSION_H
#define XEN_PUBLIC_VERSION_H

/* No argument; returns major << 16 | minor. */
#define XENVER_version 0

#endif /* XEN_PUBLIC_VERSION_H */
