/* SPDX-License-Identifier: MIT */
#include <molt/virtio/queue.h>

const char *virtqueue_error_text(enum virtqueue_error error)
{
	static const char *const texts[VIRTQUEUE_EMAX] = {
		[VIRTQUEUE_OK] = "nothing",
		[VIRTQUEUE_EAVAIL] = "the available ring's index is ahead by more than its size",
		[VIRTQUEUE_EHEAD] = "the available ring names no descriptor",
		[VIRTQUEUE_ENEXT] = "a descriptor's next one does not exist",
		[VIRTQUEUE_ELOOP] = "a chain of descriptors is a loop",
		[VIRTQUEUE_ETOOLONG] = "a chain has more descriptors than the device takes",
		[VIRTQUEUE_ENOINDIRECT] = "an indirect table was not negotiated",
		[VIRTQUEUE_ENESTED] = "an indirect table within an indirect table",
		[VIRTQUEUE_EINDIRECTNEXT] = "an indirect table that is not the last descriptor",
		[VIRTQUEUE_EINDIRECTLEN] = "an indirect table of a wrong length",
		[VIRTQUEUE_EINDIRECTADDR] = "an indirect table outside of RAM",
		[VIRTQUEUE_EORDER] = "a buffer to be read behind one to be written",
		[VIRTQUEUE_EZERO] = "a buffer of no bytes",
		[VIRTQUEUE_EADDR] = "a buffer outside of RAM",
		[VIRTQUEUE_ETOTAL] = "a chain of 4 GiB or more",
	};

	return error >= 0 && error < VIRTQUEUE_EMAX ? texts[error] : "unknown";
}
