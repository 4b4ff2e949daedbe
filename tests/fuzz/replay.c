/*
 * main() of a fuzz harness without a fuzzer: feeds it every file of its corpus, each of their
 * beginnings and each with one byte changed. With libFuzzer (clang -fsanitize=fuzzer) this file is
 * left out. Arguments are files to feed instead.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_MAX_BYTES (1024 * 1024)
#define MUTATIONS_MAX  20000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* From a buffer of exactly this size, so that a sanitizer sees one byte too many. */
static void feed(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1);

	if (!copy)
		abort();
	memcpy(copy, data, size);
	LLVMFuzzerTestOneInput(copy, size);
	free(copy);
}

static void feed_mutations(uint8_t *data, size_t size)
{
	static const uint8_t bytes[] = {0, '"', '/', ' ', 0x7f, 0xff};
	size_t n = size < MUTATIONS_MAX ? size : MUTATIONS_MAX;

	for (size_t i = 0; i < n; i++)
		feed(data, i);
	for (size_t i = 0; i < n; i++) {
		uint8_t saved = data[i];

		for (size_t k = 0; k < sizeof(bytes); k++) {
			data[i] = bytes[k];
			feed(data, size);
		}
		data[i] = saved ^ 1;
		feed(data, size);
		data[i] = saved;
	}
}

static int feed_file(const char *path)
{
	uint8_t *data = malloc(FILE_MAX_BYTES);
	FILE *file = fopen(path, "rb");
	size_t size;

	if (!data || !file) {
		perror(path);
		if (file)
			fclose(file);
		free(data);
		return -1;
	}
	size = fread(data, 1, FILE_MAX_BYTES, file);
	fclose(file);
	feed(data, size);
	feed_mutations(data, size);
	free(data);
	return 0;
}

static int feed_corpus(const char *directory)
{
	DIR *dir = opendir(directory);
	struct dirent *entry;
	char path[4096];
	int n = 0;

	if (!dir) {
		perror(directory);
		return -1;
	}
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s", directory, entry->d_name);
		if (feed_file(path) < 0) {
			n = -1;
			break;
		}
		n++;
	}
	closedir(dir);
	if (n == 0)
		fprintf(stderr, "%s holds no files\n", directory);
	return n > 0 ? 0 : -1;
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (feed_file(argv[i]) < 0)
			return EXIT_FAILURE;
	if (argc == 1 && feed_corpus(FUZZ_CORPUS) < 0)
		return EXIT_FAILURE;
	return EXIT_SUCCESS;
}
