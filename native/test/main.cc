// Entry of the C++ tests. Each native/test/*.cc registers its own cases.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest.h>
