#include <xtf.h>
const char test_title[]="x";void test_main(void){}
