{
  # CMakeLists.txt is the truth; this shim lets node-gyp and tools that look for a binding.gyp build the same addon.
  'targets': [
    {
      'target_name': 'cft_native',
      'type': 'none',
      'actions': [
        {
          'action_name': 'build_native',
          'inputs': ['scripts/build-native.mjs', 'CMakeLists.txt'],
          'outputs': ['build/Release/cft_native.node'],
          'action': ['node', 'scripts/build-native.mjs', 'rebuild']
        }
      ]
    }
  ]
}
