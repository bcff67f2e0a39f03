/* Exchanges every name in a folder for a bait, as fast as it can, until it is told to end.
 *
 * usage: swapper FOLDER BAIT...   (baits are names in FOLDER; it runs as the user that it was started as)
 *
 * Prints "ready" when it begins and, at SIGTERM, how many names it exchanged.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RENAME_EXCHANGE_FLAG 2

static volatile sig_atomic_t is_over;

static void end(int number)
{
    (void)number;
    is_over = 1;
}

static int is_bait(const char *name, char **baits, int count)
{
    for (int at = 0; at < count; at++)
        if (strcmp(name, baits[at]) == 0)
            return 1;
    return 0;
}

int main(int argc, char **argv)
{
    char **baits = argv + 2;
    int count = argc - 2, next = 0;
    long swaps = 0;
    int folder = open(argv[1], O_RDONLY | O_DIRECTORY);
    DIR *listing = fdopendir(dup(folder));
    struct dirent *found;

    if (folder < 0 || listing == NULL || count < 1)
        return 2;
    signal(SIGTERM, end);
    puts("ready");
    fflush(stdout);
    while (!is_over) {
        rewinddir(listing);
        while ((found = readdir(listing)) != NULL && !is_over) {
            const char *name = found->d_name;
            if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || is_bait(name, baits, count))
                continue;
            next = (next + 1) % count;
            if (syscall(SYS_renameat2, folder, name, folder, baits[next], RENAME_EXCHANGE_FLAG) == 0)
                swaps++;
        }
    }
    printf("%ld\n", swaps);
    return 0;
}
