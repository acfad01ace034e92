/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XEN_PUBLIC_EVENT_CHANNEL_H
#define XEN_PUBLIC_EVENT_CHANNEL_H

#include <xen/xen.h>

#define EVTCHNOP_send 4

typedef uint32_t evtchn_port_t;

#endif /* XEN_PUBLIC_EVENT_CHANNEL_H */
