/* SPDX-License-Identifier: GPL-2.0-only */
/* Time, and whose turn it is. */
#include <xen/event.h>
#include <xen/init.h>
#include <xen/sched.h>
#include <xen/softirq.h>
#include <xen/tasklet.h>
#include <xen/timer.h>
#include <asm/msr.h>
#include <xen-rs.h>

static struct timer wake;
static struct tasklet busy;

bool xrs_sched_preempt(void)
{
    return hypercall_preempt_check();
}

bool xrs_sched_softirq_pending(void)
{
    return softirq_pending(smp_processor_id());
}

uint64_t xrs_sched_us(void)
{
    return NOW() / MICROSECS(1);
}

uint64_t xrs_sched_ticks(void)
{
    return rdtsc_ordered();
}

void xrs_sched_set_pending(bool pending)
{
    ACCESS_ONCE(coalesce_pending) = pending;
}

bool xrs_sched_is_pending(void)
{
    return ACCESS_ONCE(coalesce_pending);
}

/* An idle CPU is to look for work in @ms milliseconds. */
void xrs_sched_wake(uint64_t ms)
{
    set_timer(&wake, NOW() + MILLISECS(ms));
}

/* There is no work: no need to look for any. */
void xrs_sched_sleep(void)
{
    stop_timer(&wake);
}

/*
 * The idle loop of this CPU looks by itself once the softirq is done. If a
 * guest runs here, some CPU that sleeps is made to look; if none does, the
 * first that has nothing else to do will, or a guest has to wait for us.
 */
static void cf_check wake_fn(void *unused)
{
    unsigned int cpu;

    coalesce_pending = true;

    if ( is_idle_vcpu(current) )
    {
        /* Or it ran for the tasklet only, and a guest is next. */
        if ( xrs_sched_disturbs() )
            xrs_sched_wake(20);
        return;
    }

    for_each_online_cpu ( cpu )
        if ( idle_vcpu[cpu]->is_running )
        {
            cpu_raise_softirq(cpu, TIMER_SOFTIRQ);
            return;
        }

    if ( xrs_sched_disturbs() )
        tasklet_schedule(&busy);
}

/* On the idle vCPU, which a tasklet that is no softirq's has the scheduler run. */
static void cf_check busy_fn(void *unused)
{
    xrs_sched_work_busy();
}

static int __init cf_check wake_init(void)
{
    init_timer(&wake, wake_fn, NULL, 0);
    tasklet_init(&busy, busy_fn, NULL);

    return 0;
}
presmp_initcall(wake_init);

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * indent-tabs-mode: nil
 * End:
 */
