/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <sys/capability.h>

#include <molt/base/fd.h>

#include "internal.h"

bool sandbox_can_change_user(void)
{
	static const cap_value_t needed[] = { CAP_SETUID, CAP_SETGID, CAP_CHOWN };
	cap_t ours = cap_get_proc();
	cap_flag_value_t has = CAP_SET;

	for (size_t i = 0; ours && has == CAP_SET && i < ARRAY_SIZE(needed); i++)
		if (cap_get_flag(ours, needed[i], CAP_EFFECTIVE, &has) < 0)
			has = CAP_CLEAR;
	cap_free(ours);
	return ours && has == CAP_SET;
}

void capabilities_drop_bounding(void)
{
	/*
	 * Or a program that root executes would have them all again. Without CAP_SETPCAP it is not
	 * possible; then there is hardly anything to drop, and who is not root gets nothing by
	 * exec.
	 */
	for (cap_value_t cap = 0; CAP_IS_SUPPORTED(cap); cap++)
		cap_drop_bound(cap);
	cap_reset_ambient();
}

int capabilities_drop(struct error *err)
{
	cap_t none = cap_init();
	int r = none ? cap_set_proc(none) : -1;

	if (r < 0)
		err_sys(err, errno, "dropping capabilities");
	cap_free(none);
	return r < 0 ? -(err->code) : 0;
}

int capabilities_drop_thread(struct error *err)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[2] = { { 0 }, { 0 } };

	if (syscall(SYS_capset, &header, none) < 0)
		return err_sys(err, errno, "dropping the thread's capabilities");
	return 0;
}
