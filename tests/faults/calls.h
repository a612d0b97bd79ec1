/* SPDX-License-Identifier: MIT */
/*
 * Every function outside of molt that can fail: CALL(type, name, (parameters), (arguments), errno,
 * what it returns then). The errno is that of a resource that ran out, where it takes one. meson.build
 * makes the linker's --wrap of this list (wraps.py). VARIADIC are written out in calls.c.
 */
CALL(int, access, (const char *path, int mode), (path, mode), EACCES, -1)
CALL(void *, calloc, (size_t n, size_t size), (n, size), ENOMEM, NULL)
CALL(void *, malloc, (size_t size), (size), ENOMEM, NULL)
CALL(void *, realloc, (void *old, size_t size), (old, size), ENOMEM, NULL)
CALL(char *, strdup, (const char *s), (s), ENOMEM, NULL)
CALL(char *, strndup, (const char *s, size_t n), (s, n), ENOMEM, NULL)
CALL(int, dup3, (int from, int to, int flags), (from, to, flags), EMFILE, -1)
CALL(int, epoll_create1, (int flags), (flags), EMFILE, -1)
CALL(int, epoll_ctl, (int ep, int op, int fd, struct epoll_event *ev), (ep, op, fd, ev),
     op == EPOLL_CTL_ADD ? ENOMEM : 0, -1)
CALL(int, epoll_wait, (int ep, struct epoll_event *ev, int max, int timeout),
     (ep, ev, max, timeout), EINTR, -1)
CALL(int, eventfd, (unsigned int value, int flags), (value, flags), EMFILE, -1)
CALL(int, fexecve, (int fd, char *const *argv, char *const *envp), (fd, argv, envp), ENOMEM, -1)
CALL(int, fallocate64, (int fd, int mode, off_t offset, off_t len), (fd, mode, offset, len),
     ENOSPC, -1)
CALL(int, fchmod, (int fd, mode_t mode), (fd, mode), EIO, -1)
CALL(int, fstat64, (int fd, void *st), (fd, st), EIO, -1)
CALL(int, fstatvfs64, (int fd, void *st), (fd, st), EIO, -1)
CALL(int, fstatfs64, (int fd, void *st), (fd, st), EIO, -1)
CALL(int, mincore, (void *p, size_t len, unsigned char *vec), (p, len, vec), EAGAIN, -1)
CALL(int, sigpending, (void *set), (set), EFAULT, -1)
CALL(int, lstat64, (const char *path, void *st), (path, st), EIO, -1)
CALL(int, stat64, (const char *path, void *st), (path, st), EIO, -1)
CALL(int, ftruncate64, (int fd, off_t size), (fd, size), ENOSPC, -1)
CALL(char *, getcwd, (char *buf, size_t size), (buf, size), ENOENT, NULL)
CALL(ssize_t, getrandom, (void *buf, size_t len, unsigned int flags), (buf, len, flags), EAGAIN, -1)
CALL(int, getsockopt, (int fd, int level, int name, void *value, void *len),
     (fd, level, name, value, len), ENOBUFS, -1)
CALL(int, isatty, (int fd), (fd), ENOTTY, 0)
CALL(off_t, lseek64, (int fd, off_t offset, int from), (fd, offset, from), EIO, -1)
CALL(int, madvise, (void *p, size_t len, int advice), (p, len, advice), EAGAIN, -1)
CALL(int, memfd_create, (const char *name, unsigned int flags), (name, flags), EMFILE, -1)
CALL(void *, mmap64, (void *p, size_t len, int prot, int flags, int fd, off_t offset),
     (p, len, prot, flags, fd, offset), ENOMEM, MAP_FAILED)
CALL(int, poll, (struct pollfd *fds, unsigned long n, int timeout), (fds, n, timeout), ENOMEM, -1)
CALL(int, posix_fallocate64, (int fd, off_t offset, off_t len), (fd, offset, len), ENOSPC, ENOSPC)
CALL(int, pipe2, (int *fds, int flags), (fds, flags), EMFILE, -1)
CALL(int, prctl, (int op, unsigned long a, unsigned long b, unsigned long c, unsigned long d),
     (op, a, b, c, d), EINVAL, -1)
CALL(ssize_t, pread64, (int fd, void *buf, size_t len, off_t offset), (fd, buf, len, offset), EIO, -1)
CALL(ssize_t, read, (int fd, void *buf, size_t len), (fd, buf, len), EIO, -1)
CALL(ssize_t, readlink, (const char *path, char *buf, size_t len), (path, buf, len), ENOENT, -1)
CALL(ssize_t, recv, (int fd, void *buf, size_t len, int flags), (fd, buf, len, flags), ECONNRESET, -1)
CALL(ssize_t, recvmsg, (int fd, void *msg, int flags), (fd, msg, flags), ECONNRESET, -1)
CALL(ssize_t, send, (int fd, const void *buf, size_t len, int flags), (fd, buf, len, flags),
     ECONNRESET, -1)
CALL(ssize_t, write, (int fd, const void *buf, size_t len), (fd, buf, len), ENOSPC, -1)
CALL(int, sched_getaffinity, (pid_t pid, size_t size, void *set), (pid, size, set), EINVAL, -1)
CALL(int, sched_setaffinity, (pid_t pid, size_t size, const void *set), (pid, size, set), EINVAL, -1)
CALL(int, setenv, (const char *name, const char *value, int overwrite), (name, value, overwrite),
     ENOMEM, -1)
CALL(int, setpriority, (int which, unsigned int who, int prio), (which, who, prio), EPERM, -1)
CALL(int, sigaction, (int sig, const void *act, void *old), (sig, act, old), EINVAL, -1)
CALL(int, sigprocmask, (int how, const void *set, void *old), (how, set, old), EINVAL, -1)
CALL(int, signalfd, (int fd, const void *set, int flags), (fd, set, flags), EMFILE, -1)
CALL(int, socket, (int domain, int type, int protocol), (domain, type, protocol), EMFILE, -1)
CALL(int, pthread_create, (void *thread, const void *attr, void *(*fn)(void *), void *arg),
     (thread, attr, fn, arg), EAGAIN, EAGAIN)
CALL(int, pthread_setname_np, (unsigned long thread, const char *name), (thread, name), ENOMEM, ENOMEM)
CALL(int, pthread_sigmask, (int how, const void *set, void *old), (how, set, old), EINVAL, EINVAL)
CALL(int, __clone, (int (*fn)(void *), void *stack, int flags, void *arg), (fn, stack, flags, arg),
     EAGAIN, -1)
CALL(int, tcgetattr, (int fd, void *t), (fd, t), EIO, -1)
CALL(int, tcsetattr, (int fd, int when, const void *t), (fd, when, t), EIO, -1)
CALL(int, timerfd_create, (int clock, int flags), (clock, flags), EMFILE, -1)
CALL(int, timerfd_settime, (int fd, int flags, const void *value, void *old), (fd, flags, value, old),
     EINVAL, -1)
CALL(int, unlink, (const char *path), (path), EACCES, -1)
CALL(int, kill, (pid_t pid, int sig), (pid, sig), ESRCH, -1)
CALL(pid_t, waitpid, (pid_t pid, int *status, int options), (pid, status, options), EINTR, -1)
VARIADIC(int, open, (const char *path, int flags, ...))
VARIADIC(int, open64, (const char *path, int flags, ...))
VARIADIC(int, fcntl64, (int fd, int cmd, ...))
VARIADIC(int, ioctl, (int fd, unsigned long request, ...))
VARIADIC(long, syscall, (long number, ...))
