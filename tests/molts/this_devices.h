/* SPDX-License-Identifier: MIT */
/*
 * This molt's class table and model as this_classes and this_model, for a molt with others, which
 * its constructor makes of them. The type has the model's name, so it is struct this_model here.
 */
#define device_classes this_classes
#define machine_model this_model
#include "../../src/devices.c"
#undef device_classes
#undef machine_model

#define THIS_CLASSES (sizeof(this_classes) / sizeof(this_classes[0]) - 1)
