#include <stdio.h>
#include <time.h>

/* No library can be preloaded into a static program, so a faked libc does not reach it. */
int main(void)
{
	printf("generated at second %lld\n", (long long)time(NULL));
	return 0;
}
