/*
 * The log spool: what a container writes, on disk, from ecs-task (writer) to ecs-logs (reader).
 * One directory per stream, <state>/spool/<task id>/<container>/ (root:ecs-logs 0770):
 *
 *   log.json     written once by ecs-task before the first record: what to do with the stream,
 *                {"taskId","taskArn","cluster","containerName","containerId","driver":"awslogs",
 *                 "options":{"awslogs-group":...,...},"credentialsId":"instance"|"<execution id>",
 *                 "maxBytes":67108864,"mode":"blocking"|"non-blocking"}
 *   00000001.seg segments of at most SPOOL_SEGMENT_BYTES, numbered from 1, append-only
 *   end          made when the last record is written (by ecs-task, or by the reaper after a crash)
 *   position.json and whatever else ecs-logs keeps (ecs-task never reads it)
 *
 * A record is a header of 24 bytes, little-endian, then the bytes of one read(2):
 *   u32 magic SPOOL_MAGIC, u32 length of the data, u32 crc32 of the 16 bytes that follow it in the
 *   header and of the data, u8 stream (1 stdout, 2 stderr, 3 gap), u8[3] zero, u64 time in realtime
 *   microseconds
 * The data of a gap record is two u64: records and bytes that were dropped there because the bound
 * was reached.
 * A torn record at the end of a segment (power loss) is skipped by the reader and said in the log.
 *
 * The writer counts the bytes of existing segments against the bound (the reader deletes segments
 * it has delivered): mode blocking stops reading the container's pipe until there is room,
 * non-blocking drops and leaves one gap record.
 */
#pragma once

#define SPOOL_MAGIC         0x53434c01u
#define SPOOL_SEGMENT_BYTES (1024 * 1024)
#define SPOOL_MAX_BYTES     (64ull * 1024 * 1024)
