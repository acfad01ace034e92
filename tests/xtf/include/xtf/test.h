/* SPDX-License-Identifier: GPL-2.0-only */
/* What each test has to provide. */
#ifndef XTF_TEST_H
#define XTF_TEST_H

extern const char test_title[];
void test_main(void);

#endif /* XTF_TEST_H */
