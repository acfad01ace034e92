/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The one header that a test includes.
 *
 * This runtime offers the part of the Xen Test Framework's public interface
 * that the tests here use, under XTF's header and function names, so that each
 * test also builds, unchanged, inside an XTF tree.  It is independent code:
 * where XTF has more to offer than a test here needs, this tree has nothing.
 */
#ifndef XTF_H
#define XTF_H

#include <xtf/compiler.h>
#include <xtf/types.h>
#include <xtf/numbers.h>
#include <xtf/lib.h>
#include <xtf/libc.h>
#include <xtf/console.h>
#include <xtf/report.h>
#include <xtf/test.h>
#include <xtf/hypercall.h>
#include <xtf/traps.h>
#include <arch/xtf.h>

#endif /* XTF_H */
