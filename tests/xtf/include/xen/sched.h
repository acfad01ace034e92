/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef XEN_PUBLIC_SCHED_H
#define XEN_PUBLIC_SCHED_H

#include <xen/event_channel.h>

#define SCHEDOP_yield    0
#define SCHEDOP_shutdown 2
#define SCHEDOP_poll     3

struct sched_shutdown {
    unsigned int reason;
};

struct sched_poll {
    evtchn_port_t *ports;
    unsigned int nr_ports;
    uint64_t timeout;           /* system time in ns, 0: none */
};

#define SHUTDOWN_poweroff 0
#define SHUTDOWN_reboot   1
#define SHUTDOWN_crash    3

#endif /* XEN_PUBLIC_SCHED_H */
