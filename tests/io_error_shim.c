/* Preloaded into a test's process: reading a file whose path holds "bad-sector" fails with EIO
 * from the second megabyte on, and one whose path holds "all-bad" fails at once. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static int fails(int fd, off_t offset) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = '\0';
    if (strstr(path, "all-bad")) return 1;
    return strstr(path, "bad-sector") && offset >= 1048576 && offset < 2097152;
}

static ssize_t read_at(const char *name, int fd, const struct iovec *iov, int count, off_t offset) {
    if (fails(fd, offset)) {
        errno = EIO;
        return -1;
    }
    ssize_t (*real)(int, const struct iovec *, int, off_t) = dlsym(RTLD_NEXT, name);
    return real(fd, iov, count, offset);
}

ssize_t preadv(int fd, const struct iovec *iov, int count, off_t offset) {
    return read_at("preadv", fd, iov, count, offset);
}

ssize_t preadv64(int fd, const struct iovec *iov, int count, off_t offset) {
    return read_at("preadv64", fd, iov, count, offset);
}

ssize_t preadv2(int fd, const struct iovec *iov, int count, off_t offset, int flags) {
    (void)flags;
    return read_at("preadv", fd, iov, count, offset);
}

ssize_t preadv64v2(int fd, const struct iovec *iov, int count, off_t offset, int flags) {
    (void)flags;
    return read_at("preadv64", fd, iov, count, offset);
}
