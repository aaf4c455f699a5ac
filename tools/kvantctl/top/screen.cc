#include "tools/kvantctl/top/screen.h"

#include <curses.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <clocale>
#include <cstdlib>
#include <stdexcept>

namespace kvant::tools {
namespace {

using Clock = std::chrono::steady_clock;

std::atomic<bool> told_to_end{false};

void End(int /*signal*/) { told_to_end.store(true); }

}  // namespace

Screen::Screen() {
  std::setlocale(LC_CTYPE, "");  // names are UTF-8
  const char* const type = std::getenv("TERM");
  if (type == nullptr || newterm(nullptr, stdout, stdin) == nullptr) {
    throw std::runtime_error(std::string("the terminal \"") + (type == nullptr ? "" : type) + "\" (TERM) is not known");
  }
  cbreak();
  noecho();
  curs_set(0);
  keypad(stdscr, TRUE);
  struct sigaction end {};
  end.sa_handler = End;  // without SA_RESTART: the wait for a key ends
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::sigaction(signal, &end, nullptr);
}

Screen::~Screen() { endwin(); }

std::size_t Screen::columns() const { return static_cast<std::size_t>(std::max(COLS, 1)); }

void Screen::Draw(const std::vector<std::string>& lines, std::size_t bold) {
  erase();
  const std::size_t rows = std::min(lines.size(), static_cast<std::size_t>(std::max(LINES, 0)));
  for (std::size_t i = 0; i < rows; ++i) {
    if (i == bold) attron(A_BOLD);
    mvaddstr(static_cast<int>(i), 0, lines[i].c_str());
    if (i == bold) attroff(A_BOLD);
  }
  refresh();
}

Screen::Key Screen::Wait(std::chrono::milliseconds time) {
  const auto until = Clock::now() + time;
  for (;;) {
    if (told_to_end.load()) return Key::kEnd;
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now());
    if (left.count() <= 0) return Key::kNone;
    timeout(static_cast<int>(left.count()));
    switch (getch()) {
      case 'q':
      case 'Q': return Key::kEnd;
      case 's':
      case 'S': return Key::kSort;
      case KEY_RESIZE: return Key::kResized;
      default: break;
    }
  }
}

}  // namespace kvant::tools
