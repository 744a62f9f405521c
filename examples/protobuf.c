/* SPDX-License-Identifier: Apache-2.0
 *
 * protobuf.c -- values that are protobuf-c messages: put one, change it where it is, read it.
 *
 *     protoc-c --c_out=. sensors.proto
 *     cc protobuf.c sensors.pb-c.c $(pkg-config --cflags --libs keepmap libprotobuf-c)
 */
#include <keepmap/keepmap.h>
#include <keepmap/protobuf.h>
#include <stdio.h>

#include "sensors.pb-c.h"

#define SAMPLES_MAX 100u

/* What one update needs: the sample to add, and room for the message that it makes. */
struct addition {
    Example__Sample *sample;
    Example__Sample *samples[SAMPLES_MAX];
    Example__Sensor sensor;
};

/* The sensor as it is, or a new one, with one sample more; the oldest goes if there are many. */
static km_update_verdict add_sample(void *context, const ProtobufCMessage *old_message,
                                    const km_key_info *old_info,
                                    const ProtobufCMessage **new_message)
{
    static const Example__Sensor none = EXAMPLE__SENSOR__INIT;
    const Example__Sensor *old_sensor = old_message ? (const Example__Sensor *)old_message : &none;
    struct addition *addition = (struct addition *)context;
    size_t i = old_sensor->n_samples < SAMPLES_MAX ? 0 : old_sensor->n_samples - SAMPLES_MAX + 1;
    size_t count = 0;

    (void)old_info;
    for (; i < old_sensor->n_samples; i++)
        addition->samples[count++] = old_sensor->samples[i];
    addition->samples[count++] = addition->sample;
    addition->sensor = *old_sensor;
    addition->sensor.samples = addition->samples;
    addition->sensor.n_samples = count;
    *new_message = &addition->sensor.base;
    return KM_UPDATE_PUT;
}

static void print_sensor(const Example__Sensor *sensor)
{
    size_t i;

    printf("%s:", sensor->place);
    for (i = 0; i < sensor->n_samples; i++)
        printf(" %.1f", sensor->samples[i]->celsius);
    printf("\n");
}

static km_status measure(km_map *map, km_bytes key)
{
    Example__Sensor sensor = EXAMPLE__SENSOR__INIT;
    Example__Sample sample = EXAMPLE__SAMPLE__INIT;
    struct addition addition;
    ProtobufCMessage *found;
    km_status rc;
    int i;

    sensor.place = (char *)"roof";
    rc = km_put_message(map, key, &sensor.base, NULL);
    addition.sample = &sample;
    for (i = 0; rc == KM_OK && i < 3; i++) {
        sample.time_ms = 1000 * i;
        sample.celsius = 20.5 + i;
        rc = km_update_message(map, key, &example__sensor__descriptor, add_sample, &addition, NULL);
    }
    if (rc == KM_OK)
        rc = km_get_message(map, key, &example__sensor__descriptor, NULL, &found);
    if (rc != KM_OK)
        return rc;
    print_sensor((const Example__Sensor *)found);
    protobuf_c_message_free_unpacked(found, NULL);
    return KM_OK;
}

int main(void)
{
    km_store *store;
    km_map *map;
    km_error error;
    km_status rc;

    if (km_open("sensors.store", NULL, &store, &error))
        return fprintf(stderr, "%s\n", error.message), 1;
    rc = km_map_open_or_create(store, km_bytes_of_string("sensors"), KM_KIND_DEFAULT, &map);
    if (rc == KM_OK)
        rc = measure(map, km_bytes_of_string("sensor 1"));
    if (rc != KM_OK)
        fprintf(stderr, "%s\n", km_status_name(rc));
    return km_close(store, &error) == KM_OK && rc == KM_OK ? 0 : 1;
}
