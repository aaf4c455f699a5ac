#include "kernels/polar/table.h"

namespace kvant::kernels {
namespace {

constexpr double kPi = 3.14159265358979323846;

/// Distances of the angles of levels 2, 3, ... from pi / 4, on the positive side: one of 1 bit, two of 2 bits, four of 3, eight
/// of 4.
// clang-format off
constexpr double kFromMiddle[kPolarMaxLevel - 1][15] = {
    {0.285398163397, 0.151417923406, 0.475642046415, 0.078168199353, 0.237143223860, 0.405401861860, 0.596948555845, 0.039739164769, 0.119555188302, 0.200423075716, 0.283188022032, 0.368975273992, 0.459498638646, 0.557885414202, 0.671973415300},
    {0.202064830064, 0.111013165640, 0.359148470327, 0.058651614386, 0.179330211075, 0.312222619232, 0.477881585363, 0.030232144754, 0.091143678886, 0.153459051240, 0.218347046893, 0.287440227234, 0.363378927885, 0.451335780840, 0.565456553720},
    {0.142243401493, 0.079488757736, 0.261184072294, 0.042527926960, 0.130601105840, 0.229747843648, 0.359636881256, 0.022103235955, 0.066718139642, 0.112620306815, 0.160901683389, 0.213126117819, 0.271903239911, 0.342542550280, 0.440288567106},
    {0.100207545638, 0.056445333476, 0.186894941377, 0.030382679567, 0.093511255517, 0.165369237183, 0.261843324011, 0.015855884837, 0.047890973602, 0.080947051589, 0.115897835906, 0.154009273531, 0.197424615927, 0.250581064455, 0.326508817164},
    {0.070699059008, 0.039974511189, 0.132857634087, 0.021579072270, 0.066489038840, 0.117889447827, 0.187723938584, 0.011283532978, 0.034091488537, 0.057660826841, 0.082645784438, 0.109999419574, 0.141346003316, 0.180075056294, 0.236241844444},
    {0.049931260695, 0.028283894938, 0.094178011559, 0.015289538051, 0.047135668190, 0.083682904780, 0.133627532909, 0.008002293028, 0.024181533426, 0.040913046675, 0.058672317839, 0.078153785720, 0.100544680736, 0.128331749853, 0.168927082469},
    {0.035284549375, 0.020005233792, 0.066673712686, 0.010821712754, 0.033371042356, 0.059283854881, 0.094797825908, 0.005666505423, 0.017124536944, 0.028977979284, 0.041567590880, 0.055391664219, 0.071303387925, 0.091093044464, 0.120108934170},
    {0.024941963762, 0.014147649975, 0.047173157207, 0.007655681313, 0.023611126082, 0.041958769103, 0.067140538311, 0.004009604446, 0.012117752941, 0.020507225902, 0.029420578313, 0.039212716873, 0.050491775530, 0.064534952639, 0.085161993181},
    {0.017633786108, 0.010004517232, 0.033366173476, 0.005414631361, 0.016700568337, 0.029682936908, 0.047513683096, 0.002836190848, 0.008571651827, 0.014506649014, 0.020813260672, 0.027743348492, 0.035728638213, 0.045676232562, 0.060300511534},
};
// clang-format on

/// By its series, for |x| <= 2 pi: libraries differ in the last place, and codes may not depend on which one is linked.
constexpr double Sine(double x) noexcept {
  double term = x, sum = x;
  for (int k = 2; k < 60; k += 2) {
    term *= -x * x / (k * (k + 1));
    sum += term;
  }
  return sum;
}
constexpr double Cosine(double x) noexcept {
  double term = 1, sum = 1;
  for (int k = 1; k < 60; k += 2) {
    term *= -x * x / (k * (k + 1));
    sum += term;
  }
  return sum;
}

constexpr void Fill(PolarAngles& table) noexcept {
  for (std::size_t i = 0; i < kPolarPadded; ++i) {
    table.cosines[i] = static_cast<float>(Cosine(table.angles[i % table.count]));
    table.sines[i] = static_cast<float>(Sine(table.angles[i % table.count]));
  }
}

constexpr void AddBoundary(PolarAngles& table, double angle) noexcept {
  table.boundary_cosines[table.boundaries] = static_cast<float>(Cosine(angle));
  table.boundary_sines[table.boundaries] = static_cast<float>(Sine(angle));
  ++table.boundaries;
}

constexpr PolarAngles Circle(std::uint32_t bits) noexcept {
  PolarAngles table;
  table.count = 1U << bits;
  const double step = 2 * kPi / table.count;
  for (std::uint32_t i = 0; i < table.count; ++i) table.angles[i] = (i + 0.5) * step;
  for (std::uint32_t i = 1; i < table.count / 4; ++i) AddBoundary(table, i * step);
  Fill(table);
  return table;
}

constexpr PolarAngles Quarter(std::uint32_t level, std::uint32_t bits) noexcept {
  PolarAngles table;
  table.count = 1U << bits;
  const std::uint32_t half = table.count / 2;
  const double* from_middle = kFromMiddle[level - 2] + (half - 1);
  for (std::uint32_t i = 0; i < half; ++i) {
    table.angles[half + i] = kPi / 4 + from_middle[i];
    table.angles[half - 1 - i] = kPi / 4 - from_middle[i];
  }
  for (std::uint32_t i = 0; i + 1 < table.count; ++i) AddBoundary(table, (table.angles[i] + table.angles[i + 1]) / 2);
  Fill(table);
  return table;
}

struct Tables {
  std::array<PolarAngles, kPolarMaxFirst - 1> circles;
  std::array<std::array<PolarAngles, kPolarMaxOthers>, kPolarMaxLevel - 1> quarters;
};

constexpr Tables MakeTables() noexcept {
  Tables tables;
  for (std::uint32_t bits = 2; bits <= kPolarMaxFirst; ++bits) tables.circles[bits - 2] = Circle(bits);
  for (std::uint32_t level = 2; level <= kPolarMaxLevel; ++level) {
    for (std::uint32_t bits = 1; bits <= kPolarMaxOthers; ++bits) tables.quarters[level - 2][bits - 1] = Quarter(level, bits);
  }
  return tables;
}

const Tables kTables = MakeTables();

}  // namespace

const PolarAngles& PolarCircle(std::uint32_t bits) noexcept { return kTables.circles[bits - 2]; }
const PolarAngles& PolarQuarter(std::uint32_t level, std::uint32_t bits) noexcept {
  return kTables.quarters[level - 2][bits - 1];
}

}  // namespace kvant::kernels
