/* A workload gone wild: datagrams that are denied, each to another destination, from ever new sockets.
 *
 *   flood PER_SECOND MILLISECONDS
 *
 * PER_SECOND 0: as many as it can. Says "ready", waits for a line, then says how many were denied, in how many
 * nanoseconds. Ends with 1 if one was not denied. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PER_SOCKET 64
#define BURST 64 /* between two looks at the clock */

static uint64_t now_ns(void) {
  struct timespec now;

  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

static void die(const char *what) {
  perror(what);
  exit(1);
}

/* 198.51.100.0/24 and port by port: 16 million pairs. */
static void deny(int fd, uint64_t number) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(1024 + (number >> 8) % 60000)};

  to.sin_addr.s_addr = htonl(0xc6336400 | (number & 0xff));
  if (sendto(fd, "flood", 5, 0, (struct sockaddr *)&to, sizeof(to)) >= 0 || errno != EPERM)
    die("a datagram that should be denied");
}

static uint64_t flood(uint64_t per_second, uint64_t ms) {
  uint64_t begin = now_ns(), end = begin + ms * 1000000, total = per_second ? per_second * ms / 1000 : UINT64_MAX;
  uint64_t sent = 0;
  int fd = -1;

  while (sent < total) {
    uint64_t due = per_second ? begin + sent * 1000000000ULL / per_second : 0, now = now_ns();

    if (!per_second && now >= end)
      break;
    if (now < due) {
      struct timespec left = {.tv_nsec = due - now};

      nanosleep(&left, 0);
      continue;
    }
    for (int i = 0; i < BURST && sent < total; i++, sent++) {
      if (sent % PER_SOCKET == 0) {
        if (fd >= 0)
          close(fd);
        fd = socket(AF_INET, SOCK_DGRAM, 0);
        if (fd < 0)
          die("socket");
      }
      deny(fd, sent);
    }
  }
  return sent;
}

int main(int argc, char **argv) {
  uint64_t begin, sent;

  if (argc != 3)
    return 2;
  puts("ready");
  fflush(stdout);
  if (getchar() == EOF)
    return 1;
  begin = now_ns();
  sent = flood(strtoull(argv[1], 0, 10), strtoull(argv[2], 0, 10));
  printf("%llu %llu\n", (unsigned long long)sent, (unsigned long long)(now_ns() - begin));
  return 0;
}
