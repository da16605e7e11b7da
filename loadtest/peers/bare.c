/* The floor: a WebSocket frame to each client, send() in a loop, nothing else.

   usage: bare PORT BACK_PORT

   A client connects to PORT; its handshake is answered unread, whatever it says next with `ok`.
   Each line `TOPIC DATA` that arrives at BACK_PORT goes, without TOPIC, to all clients. Lines that
   arrive together are joined into one send(). No topics, no checks, no bound on anything but: a client
   that does not take what it is sent holds up everybody. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { MOST = 65536, ROOM = 1 << 20 };

static int clients[MOST], stage[MOST], count;
static char heard[ROOM * 2], out[ROOM * 3];

static void check(int result, const char *what) {
    if (result < 0) {
        perror(what);
        exit(1);
    }
}

static int listener(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    check(fd, "socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    check(bind(fd, (struct sockaddr *)&address, sizeof address), "bind");
    check(listen(fd, 4096), "listen");
    return fd;
}

static void all(int fd, const char *data, size_t size) {
    while (size) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN) return;
            struct pollfd room = {.fd = fd, .events = POLLOUT};
            poll(&room, 1, 1000);
            continue;
        }
        data += sent;
        size -= sent;
    }
}

/* Frames of the complete lines in `heard`; what is left of it moves to its start. */
static size_t frames(size_t *size) {
    size_t made = 0;
    char *at = heard, *end = heard + *size, *stop;
    while ((stop = memchr(at, '\n', end - at)) && made < sizeof out - 70000) {
        char *data = memchr(at, ' ', stop - at);
        if (data++) {
            size_t length = stop - data;
            out[made++] = (char)0x81;
            if (length < 126) {
                out[made++] = (char)length;
            } else {
                out[made++] = 126;
                out[made++] = (char)(length >> 8);
                out[made++] = (char)length;
            }
            memcpy(out + made, data, length);
            made += length;
        }
        at = stop + 1;
    }
    *size = end - at;
    memmove(heard, at, *size);
    return made;
}

int main(int argc, char **argv) {
    static const char hello[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                                "Connection: Upgrade\r\n\r\n",
                      ok[] = "\x81\x02ok";
    if (argc != 3) return 2;
    int front = listener(atoi(argv[1])), back = listener(atoi(argv[2])), on = 1;
    int poller = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN}, events[256];
    size_t waiting = 0;
    int backend = -1;
    event.data.fd = front;
    epoll_ctl(poller, EPOLL_CTL_ADD, front, &event);
    event.data.fd = back;
    epoll_ctl(poller, EPOLL_CTL_ADD, back, &event);
    for (;;) {
        int ready = epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            char scrap[4096];
            if (fd == front || fd == back) {
                int peer;
                while ((peer = accept4(fd, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                    event.data.fd = peer;
                    epoll_ctl(poller, EPOLL_CTL_ADD, peer, &event);
                    if (fd == back) backend = peer;
                    if (peer < MOST) stage[peer] = 0;
                }
            } else if (fd == backend) {
                ssize_t got = recv(fd, heard + waiting, ROOM, 0);
                if (got <= 0) {
                    if (got == 0 || errno != EAGAIN) {
                        close(fd);
                        backend = -1;
                        waiting = 0;
                    }
                    continue;
                }
                waiting += got;
                size_t size;
                while ((size = frames(&waiting)))
                    for (int c = 0; c < count; c++) all(clients[c], out, size);
            } else {
                ssize_t got = recv(fd, scrap, sizeof scrap, 0);
                if (got <= 0) {
                    for (int c = 0; c < count; c++)
                        if (clients[c] == fd) clients[c--] = clients[--count];
                    close(fd);
                } else if (stage[fd]++ == 0) {
                    all(fd, hello, sizeof hello - 1);
                } else if (stage[fd] == 2) {
                    all(fd, ok, sizeof ok - 1);
                    clients[count++] = fd;
                }
            }
        }
    }
}
