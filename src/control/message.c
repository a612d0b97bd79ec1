/* SPDX-License-Identifier: MIT */
/*
 * How greeting, answers, errors and events are put. The id of an answer is not in here: it is text,
 * and joins the text of the message (client.c).
 */
#include <time.h>

#include <molt/base/json.h>
#include "molt_version.h"

#include "internal.h"

json_t *control_version(void)
{
	return json_pack("{s:{s:i,s:i,s:i},s:s}", "qemu", "major", CONTROL_QMP_MAJOR, "minor",
			 CONTROL_QMP_MINOR, "micro", CONTROL_QMP_MICRO, "package",
			 "molt " MOLT_VERSION);
}

json_t *control_greeting(void)
{
	return json_pack("{s:{s:o,s:[]}}", "QMP", "version", control_version(), "capabilities");
}

json_t *control_return(json_t *result)
{
	return json_pack("{s:o}", "return", result ? result : json_object());
}

json_t *control_error(const char *class, const char *desc)
{
	return json_pack("{s:{s:s,s:o}}", "error", "class", class, "desc", json_any_string(desc));
}

json_t *control_event_message(const char *name, json_t *data)
{
	struct timespec ts;
	json_t *msg;

	clock_gettime(CLOCK_REALTIME, &ts);
	msg = json_pack("{s:{s:I,s:I},s:s}", "timestamp", "seconds", (json_int_t)ts.tv_sec,
			"microseconds", (json_int_t)(ts.tv_nsec / 1000), "event", name);
	if (msg && data && json_object_set(msg, "data", data) < 0) {
		json_decref(msg);
		return NULL;
	}
	return msg;
}
