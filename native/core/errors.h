// The core's one exception for expected failures. `code` is one of the CftError codes of lib/errors.ts.
#pragma once
#include <stdexcept>
#include <string>

namespace cft {

class Error : public std::runtime_error {
 public:
  Error(const char* code, const std::string& message) : std::runtime_error(message), code_(code) {}
  const char* code() const { return code_; }

 private:
  const char* code_;  // a string literal
};

}  // namespace cft
