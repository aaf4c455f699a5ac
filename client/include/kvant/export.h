// What libkvant_client exports: everything else in it is hidden.
#pragma once

#define KVANT_API __attribute__((visibility("default")))
