/* SPDX-License-Identifier: GPL-2.0-only */
/* What an operator can turn: coalesce= on Xen's command line. */
#include <xen/ctype.h>
#include <xen/errno.h>
#include <xen/init.h>
#include <xen/lib.h>
#include <xen/param.h>
#include <xen-rs.h>

struct xrs_knobs __read_mostly xrs_knobs = {
    .mode = XEN_DOMCTL_COALESCE_MODE_full,
    .budget = XRS_BUDGET_DEFAULT,
    .batch = XRS_BATCH_DEFAULT,
    .watermark = XRS_WATERMARK_DEFAULT,
    .cool_down = XRS_COOL_DOWN_DEFAULT,
    .share = XRS_SHARE_DEFAULT,
    .room = XRS_ROOM_DEFAULT,
};

const struct xrs_knob xrs_knob_table[XRS_KNOBS] = {
    { "budget", &xrs_knobs.budget, XRS_BUDGET_MIN, XRS_BUDGET_MAX },
    { "batch", &xrs_knobs.batch, XRS_BATCH_MIN, XRS_BATCH_MAX },
    { "watermark", &xrs_knobs.watermark, 0, XRS_WATERMARK_MAX, .size = true },
    { "cool-down", &xrs_knobs.cool_down, XRS_COOL_DOWN_MIN, XRS_COOL_DOWN_MAX },
    { "share", &xrs_knobs.share, 0, XRS_SHARE_MAX },
    { "room", &xrs_knobs.room, 0, XRS_ROOM_MAX },
};

const char *const xrs_mode_names[XRS_MODES] = {
    [XEN_DOMCTL_COALESCE_MODE_default] = "default",
    [XEN_DOMCTL_COALESCE_MODE_off] = "off",
    [XEN_DOMCTL_COALESCE_MODE_in_place] = "in-place",
    [XEN_DOMCTL_COALESCE_MODE_full] = "full",
};

int xrs_knob_set(const struct xrs_knob *knob, uint64_t value)
{
    if ( value < knob->min || value > knob->max )
        return -EINVAL;

    ACCESS_ONCE(*knob->value) = value;

    return 0;
}

/* The word of the command line that was refused first, for when there is a console. */
static char __initdata refused[40];

static int __init parse_word(const char *s, const char *end)
{
    const struct xrs_knob *knob;
    unsigned int mode;
    int val = parse_bool(s, end);

    if ( val >= 0 )
    {
        xrs_knobs.mode = val ? XEN_DOMCTL_COALESCE_MODE_full
                         : XEN_DOMCTL_COALESCE_MODE_off;
        return 0;
    }

    for ( mode = XEN_DOMCTL_COALESCE_MODE_off; mode < XRS_MODES; mode++ )
        if ( !cmdline_strcmp(s, xrs_mode_names[mode]) &&
             strlen(xrs_mode_names[mode]) == end - s )
        {
            xrs_knobs.mode = mode;
            return 0;
        }

    for ( knob = xrs_knob_table; knob < xrs_knob_table + XRS_KNOBS; knob++ )
    {
        size_t len = strlen(knob->name);
        const char *digits = s + len + 1, *after;
        uint64_t value;

        if ( end <= digits || strncmp(s, knob->name, len) || s[len] != '=' )
            continue;

        /* So few digits, whatever the unit, cannot overflow. */
        if ( !isdigit(*digits) || end - digits > 7 )
            return -EINVAL;

        /* Sizes are in KiB, here as there if no unit is named. */
        value = knob->size ? parse_size_and_unit(digits, &after) >> 10
                           : simple_strtoull(digits, &after, 10);

        return after == end ? xrs_knob_set(knob, value) : -EINVAL;
    }

    return -EINVAL;
}

static int __init cf_check parse_coalesce(const char *s)
{
    const char *end;
    int rc = 0;

    do {
        end = strchr(s, ',');
        if ( !end )
            end = strchr(s, '\0');

        if ( parse_word(s, end) )
        {
            rc = -EINVAL;
            if ( !*refused )
                snprintf(refused, sizeof(refused), "%.*s", (int)(end - s), s);
        }

        s = end + 1;
    } while ( *end );

    return rc;
}
custom_param("coalesce", parse_coalesce);

static int __init cf_check report_refused(void)
{
    if ( *refused )
        printk(XENLOG_WARNING
               "coalesce: \"%s\" is unknown or out of range, and ignored\n",
               refused);

    return 0;
}
__initcall(report_refused);

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * indent-tabs-mode: nil
 * End:
 */
