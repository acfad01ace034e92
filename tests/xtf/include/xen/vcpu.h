/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XEN_PUBLIC_VCPU_H
#define XEN_PUBLIC_VCPU_H

#include <xen/xen.h>

#endif /* XEN_PUBLIC_VCPU_H */
