/* SPDX-License-Identifier: MIT */
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "hanging_file.h"

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	dev_t dev;
	ino_t ino; /* 0: none hangs */
	unsigned int waiting;
} hang = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

static bool hangs(int fd)
{
	struct stat st;

	return hang.ino && fstat(fd, &st) == 0 && st.st_ino == hang.ino && st.st_dev == hang.dev;
}

ssize_t write(int fd, const void *data, size_t len)
{
	pthread_mutex_lock(&hang.lock);
	while (hangs(fd)) {
		hang.waiting++;
		pthread_cond_broadcast(&hang.changed);
		pthread_cond_wait(&hang.changed, &hang.lock);
		hang.waiting--;
	}
	pthread_mutex_unlock(&hang.lock);
	return syscall(SYS_write, fd, data, len);
}

void hang_file(const char *path)
{
	struct stat st = { 0 };

	if (path && stat(path, &st) < 0)
		abort();
	pthread_mutex_lock(&hang.lock);
	hang.dev = st.st_dev;
	hang.ino = st.st_ino;
	pthread_cond_broadcast(&hang.changed);
	pthread_mutex_unlock(&hang.lock);
}

void hang_wait(void)
{
	pthread_mutex_lock(&hang.lock);
	while (!hang.waiting)
		pthread_cond_wait(&hang.changed, &hang.lock);
	pthread_mutex_unlock(&hang.lock);
}
