/* Preloaded into every process of the campaign: lets the n-th call of chosen kinds kill the process or fail.
   Python's, pyarrow's and TensorStore's calls all come through here; they cannot tell it from the system. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { RENAME = 1, MKDIR = 2, UNLINK = 4, FSYNC = 8, WRITE = 16, CREATE = 32 };

static int kinds, failure, once;
static long at, seen;
static char below[PATH_MAX];

/* From the `n`-th call (1 is the first) of `which` kinds on whose path lies below `folder` ("" is everywhere): kill the
   process where `error` is 0, else fail with that errno. n = 0 only counts. */
void faults_arm(int which, long n, int error, int only_once, const char *folder) {
  snprintf(below, sizeof below, "%s", folder);
  failure = error, once = only_once, at = n, seen = 0, kinds = which;
}

/* Strikes no more; returns how many calls were seen. */
long faults_disarm(void) {
  kinds = 0;
  return seen;
}

static int lies_below(int folder, const char *path) {
  char named[PATH_MAX], found[PATH_MAX];
  size_t length = strlen(below);
  if (!length) return 1;
  if (!path) { /* an open file */
    snprintf(named, sizeof named, "/proc/self/fd/%d", folder);
    ssize_t count = readlink(named, found, sizeof found - 1);
    if (count < 0) return 0;
    found[count] = 0;
  } else { /* where its folder really is: the path may lead through a link */
    if (path[0] == '/' || folder == AT_FDCWD) snprintf(named, sizeof named, "%s", path);
    else snprintf(named, sizeof named, "/proc/self/fd/%d/%s", folder, path);
    char *slash = strrchr(named, '/');
    if (slash == named) slash[1] = 0;
    else if (slash) *slash = 0;
    else strcpy(named, ".");
    if (!realpath(named, found)) return 0;
  }
  return !strncmp(found, below, length) && (!found[length] || found[length] == '/');
}

static int struck(int kind, int folder, const char *path) {
  if (!(kinds & kind)) return 0;
  int before = errno;
  int inside = lies_below(folder, path);
  errno = before;
  if (!inside) return 0;
  long number = __atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST);
  if (!at || number < at || (once && number > at)) return 0;
  if (!failure) kill(getpid(), SIGKILL);
  errno = failure;
  return 1;
}

#define WRAP(type, name, kind, folder, path, parameters, arguments) \
  type name parameters { \
    static type(*real) parameters; \
    if (!real) real = dlsym(RTLD_NEXT, #name); \
    return struck(kind, folder, path) ? -1 : real arguments; \
  }

WRAP(int, rename, RENAME, AT_FDCWD, to, (const char *from, const char *to), (from, to))
WRAP(int, renameat, RENAME, b, to, (int a, const char *from, int b, const char *to), (a, from, b, to))
WRAP(int, renameat2, RENAME, b, to, (int a, const char *from, int b, const char *to, unsigned f), (a, from, b, to, f))
WRAP(int, link, CREATE, AT_FDCWD, to, (const char *from, const char *to), (from, to))
WRAP(int, symlink, CREATE, AT_FDCWD, to, (const char *from, const char *to), (from, to))
WRAP(int, mkdir, MKDIR, AT_FDCWD, path, (const char *path, mode_t mode), (path, mode))
WRAP(int, mkdirat, MKDIR, a, path, (int a, const char *path, mode_t mode), (a, path, mode))
WRAP(int, unlink, UNLINK, AT_FDCWD, path, (const char *path), (path))
WRAP(int, unlinkat, UNLINK, a, path, (int a, const char *path, int flags), (a, path, flags))
WRAP(int, rmdir, UNLINK, AT_FDCWD, path, (const char *path), (path))
WRAP(int, fsync, FSYNC, file, NULL, (int file), (file))
WRAP(int, fdatasync, FSYNC, file, NULL, (int file), (file))
WRAP(ssize_t, write, WRITE, file, NULL, (int file, const void *data, size_t size), (file, data, size))
WRAP(ssize_t, writev, WRITE, file, NULL, (int file, const struct iovec *data, int count), (file, data, count))
WRAP(ssize_t, pwrite, WRITE, file, NULL, (int file, const void *data, size_t n, off_t to), (file, data, n, to))
WRAP(ssize_t, pwrite64, WRITE, file, NULL, (int file, const void *data, size_t n, off64_t to), (file, data, n, to))
WRAP(ssize_t, sendfile, WRITE, out, NULL, (int out, int in, off_t *from, size_t n), (out, in, from, n))
WRAP(ssize_t, copy_file_range, WRITE, out, NULL,
     (int in, off64_t *from, int out, off64_t *to, size_t n, unsigned flags), (in, from, out, to, n, flags))

#define WRAP_OPEN(name, folder, parameters, arguments) \
  int name parameters { \
    static int(*real)(); \
    if (!real) real = (int (*)())dlsym(RTLD_NEXT, #name); \
    va_list rest; \
    va_start(rest, flags); \
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
    va_end(rest); \
    return flags & O_CREAT && struck(CREATE, folder, path) ? -1 : real arguments; \
  }

WRAP_OPEN(open, AT_FDCWD, (const char *path, int flags, ...), (path, flags, mode))
WRAP_OPEN(open64, AT_FDCWD, (const char *path, int flags, ...), (path, flags, mode))
WRAP_OPEN(openat, a, (int a, const char *path, int flags, ...), (a, path, flags, mode))
WRAP_OPEN(openat64, a, (int a, const char *path, int flags, ...), (a, path, flags, mode))
