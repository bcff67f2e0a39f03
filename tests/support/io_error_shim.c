/* Preloaded into a test's process: reading a file whose path holds "bad-sector" fails with EIO
 * from the second megabyte on, and one whose path holds "all-bad" fails at once. Of other paths,
 * what their names say fails: "bad-stat", "bad-list" (of attributes), "bad-value" (of the one
 * attribute "user.bad"), "bad-close"; with "later-" before it, all but the first time. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static int find_path(int fd, char path[4096]) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, 4095);
    path[length < 0 ? 0 : length] = '\0';
    return length >= 0;
}

static int is_bad(int fd, const char *what) {
    static int calls;
    char path[4096];
    if (!find_path(fd, path) || !strstr(path, what)) return 0;
    if (strstr(path, "later-") && !calls++) return 0;
    errno = EIO;
    return 1;
}

static int fails(int fd, off_t offset) {
    char path[4096];
    if (!find_path(fd, path)) return 0;
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

int fstat(int fd, struct stat *status) {
    if (is_bad(fd, "bad-stat")) return -1;
    int (*real)(int, struct stat *) = dlsym(RTLD_NEXT, "fstat");
    return real(fd, status);
}

int fstat64(int fd, struct stat64 *status) {
    if (is_bad(fd, "bad-stat")) return -1;
    int (*real)(int, struct stat64 *) = dlsym(RTLD_NEXT, "fstat64");
    return real(fd, status);
}

ssize_t flistxattr(int fd, char *names, size_t size) {
    if (is_bad(fd, "bad-list")) return -1;
    ssize_t (*real)(int, char *, size_t) = dlsym(RTLD_NEXT, "flistxattr");
    return real(fd, names, size);
}

ssize_t fgetxattr(int fd, const char *name, void *value, size_t size) {
    if (!strcmp(name, "user.bad") && is_bad(fd, "bad-value")) return -1;
    ssize_t (*real)(int, const char *, void *, size_t) = dlsym(RTLD_NEXT, "fgetxattr");
    return real(fd, name, value, size);
}

int close(int fd) {
    int bad = is_bad(fd, "bad-close");
    int (*real)(int) = dlsym(RTLD_NEXT, "close");
    int done = real(fd);
    if (bad) errno = EIO;
    return bad ? -1 : done;
}
