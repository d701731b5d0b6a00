/* A wall clock that a test can step, for one worker and all it starts.
 *
 * Preloaded; adds the nanoseconds found in the file CLOCK_OFFSET_FILE to CLOCK_REALTIME,
 * and takes them off the deadlines that are given in it. The monotonic clock is the
 * kernel's. libfaketime would do, but its clock_nanosleep refuses CPython 3.11's sleep.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const long long *page;

__attribute__((constructor)) static void open_page(void) {
  const char *path = getenv("CLOCK_OFFSET_FILE");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0)
    return;
  void *found = mmap(NULL, sizeof *page, PROT_READ, MAP_SHARED, file, 0);
  close(file);
  if (found != MAP_FAILED)
    page = found;
}

static struct timespec shifted(struct timespec t, int sign) {
  long long sum = t.tv_nsec + (page ? sign * *page : 0);
  t.tv_sec += sum / 1000000000;
  t.tv_nsec = sum % 1000000000;
  if (t.tv_nsec < 0) {
    t.tv_nsec += 1000000000;
    t.tv_sec--;
  }
  return t;
}

/* The C library's own syscall(), which the one below stands before. */
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int clock_gettime(clockid_t clock, struct timespec *t) {
  static __typeof__(&clock_gettime) real;
  if (!real)
    real = REAL(clock_gettime);
  int result = real(clock, t);
  if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
    *t = shifted(*t, 1);
  return result;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone) {
  struct timespec now;
  (void)zone;
  int result = clock_gettime(CLOCK_REALTIME, &now);
  t->tv_sec = now.tv_sec;
  t->tv_usec = now.tv_nsec / 1000;
  return result;
}

time_t time(time_t *t) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (t)
    *t = now.tv_sec;
  return now.tv_sec;
}

int sem_timedwait(sem_t *restrict s, const struct timespec *restrict end) {
  struct timespec real = shifted(*end, -1);
  return REAL(sem_timedwait)(s, &real);
}

int pthread_cond_timedwait(pthread_cond_t *restrict c, pthread_mutex_t *restrict m,
                           const struct timespec *restrict end) {
  struct timespec now, real = shifted(*end, -1);
  clock_gettime(CLOCK_MONOTONIC, &now);
  /* A deadline far from the wall clock is one of a condition on the monotonic clock. */
  if (llabs((long long)end->tv_sec - now.tv_sec) < 1000000)
    real = *end;
  return REAL(pthread_cond_timedwait)(c, m, &real);
}

long syscall(long number, ...) {
  long a[6];
  va_list list;
  va_start(list, number);
  for (int i = 0; i < 6; i++)
    a[i] = va_arg(list, long);
  va_end(list);
  struct timespec real;
  if (number == SYS_futex && (a[1] & FUTEX_CLOCK_REALTIME) && a[3]) {
    real = shifted(*(const struct timespec *)a[3], -1);
    a[3] = (long)&real;
  }
  return REAL(syscall)(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
